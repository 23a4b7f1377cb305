"""From attention to statistics, and from statistics to drafters."""
