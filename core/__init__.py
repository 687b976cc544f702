"""Pure arithmetic on arrays and records: no I/O, no clock, no chance, no logging."""
