"""Long work: datasets, bulk captioning jobs, and the worker that does them."""
