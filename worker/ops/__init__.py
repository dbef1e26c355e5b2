"""The operations that programs are made of, as frozen data with the buffers that each reads and writes."""
