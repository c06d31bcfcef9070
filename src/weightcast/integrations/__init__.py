"""What other people's tools need of us, one file for each: Lightning, the Hugging Face Hub."""
