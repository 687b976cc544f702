"""All I/O that is not the kernel side: sources, sinks, settings, the clock, metrics."""
