"""A Device on Vulkan: `device.py` ties the other files together; only `api.py` imports the vulkan package."""
