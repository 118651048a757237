"""The commands: flags, presets, help, signals and exit codes."""
