"""What each kernel is told, by push constants: the other side of the structs in shaders/*.slang."""
