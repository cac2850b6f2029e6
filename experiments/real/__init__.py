"""What the methods do to a pretrained model: SmolLM2-135M-Instruct, on two cores."""
