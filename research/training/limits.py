def check_memory(run, sample_batch):
    return None
