"""From a trained run to smaller and faster ones, and a measured frontier of what they cost and what they are worth."""
