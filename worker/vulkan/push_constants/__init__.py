"""The push constants of each kernel: the other side of the structs in shaders/*.slang."""
