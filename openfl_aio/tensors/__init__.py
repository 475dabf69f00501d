"""What a tensor is and what may be done to it. numpy only."""
