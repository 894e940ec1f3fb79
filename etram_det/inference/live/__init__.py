"""Events as they arrive: cameras, pipes and replays, cut into windows, none of them too late."""
