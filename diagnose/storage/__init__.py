"""What lies on disk: run directories, shards of rollouts, diagnosis.json."""
