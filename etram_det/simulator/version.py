"""Which simulator made an event file."""

SIMULATOR_VERSION = 5  # of the simulator: other versions make other events of the same settings
VERSION_ATTRIBUTE = "simulator_version"  # of an event file
