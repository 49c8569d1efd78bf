"""What the stages run on: which model files there are (`weights`), and what fits this machine (`hardware`)."""
