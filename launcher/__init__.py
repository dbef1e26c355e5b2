"""The command line: lists devices, makes the plan, starts and watches the workers."""
