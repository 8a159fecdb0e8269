"""Models on disk: fetching them from the Hugging Face Hub, listing them, saying what is wrong with them."""
