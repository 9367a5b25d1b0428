from benchmarks import decode_speed


def test_the_translations_that_are_timed_have_every_token(monkeypatch):
    shape = {"LAYERS": 1, "WIDTH": 8, "MLP_WIDTH": 8, "HEADS": 2, "VOCAB": 16, "BATCH": 2, "BEAMS": 2}
    for name, value in shape.items():
        monkeypatch.setattr(decode_speed, name, value)
    translations = decode_speed.heed()()
    decode_speed.check(translations, "beam_search")
    assert translations.shape[0] == shape["BATCH"] and (translations[:, 1:] != decode_speed.EOS).all()
