"""A data site: registers its shard, runs experiments in a child process."""
