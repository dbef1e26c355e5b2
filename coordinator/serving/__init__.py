"""The driving: requests are scheduled, run on all ranks step by step, sampled and handed out."""
