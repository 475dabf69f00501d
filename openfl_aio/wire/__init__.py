"""What bytes and messages mean. Sans-IO."""
