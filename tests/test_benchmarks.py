from benchmarks import decode_speed


def test_the_translations_that_are_timed_have_every_token(monkeypatch):
    shape = {"LAYERS": 1, "WIDTH": 8, "MLP_WIDTH": 8, "HEADS": 2, "VOCAB": 16, "BATCH": 2, "BEAMS": 2}
    for name, value in shape.items():
        monkeypatch.setattr(decode_speed, name, value)
    decode_speed.check(decode_speed.heed()(), "beam_search")
