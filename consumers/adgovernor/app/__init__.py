"""The program: settings, the command line, wiring, logs, metrics and health."""
