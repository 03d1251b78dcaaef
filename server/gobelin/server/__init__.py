"""The aggregator: plans rounds, admits contributions, converges the consensus model."""
