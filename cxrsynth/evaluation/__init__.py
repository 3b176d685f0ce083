"""What a result is worth: metrics, bootstrap intervals, paired comparisons, checks on files."""
