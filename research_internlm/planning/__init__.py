"""Before the hours are paid for: plan, cost and memory."""
