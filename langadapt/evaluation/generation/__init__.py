"""What models are asked, and what they write: prompts, engines, processes, files that outlive a kill."""
