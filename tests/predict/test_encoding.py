import subprocess

import pytest

from potstill.predict.encoding import certain_encoding, conversion, find_encoding, wide_encoding

WRITTEN = [
    ("Ich möchte mein Geld zurück – it’s “fine”.", "cp1252"),
    ("prix très élevé, où êtes-vous ?\x9d", "latin1"),
    ("Gdzie jest moja przesyłka? Proszę o zwrot, żółw.", "cp1250"),
    ("Größe und Farbe gefallen – 20 m³ für Müller, “sehr gut”…wirklich", "cp1252"),
    ("It’s “fine”, and they didn’t charge me", "macintosh"),
    ("Déjà vu: très élevé, où êtes-vous ?", "macintosh"),
    ("Größe und Farbe gefallen mir überhaupt nicht", "cp850"),
    ("prix très élevé, où êtes-vous ?", "cp850"),
    ("¿Dónde está mi paquete? Mañana, señor", "cp850"),
    ("¿Dónde está mi paquete? Mañana, señor", "cp1252"),
    ("Onde está a minha encomenda? Não chegou, informações", "cp1252"),
    ("Где моя посылка? Она не пришла. Верните деньги!", "cp1251"),
    ("Где моя посылка? Она не пришла. Верните деньги!", "koi8-r"),
    ("房间很干净，服务很好，老板很热情！火车晚点", "gb18030"),
    ("房間很乾淨，服務很好，老闆很熱情！火車誤點", "big5"),
    ("部屋はとてもきれいでした。サービスが良い。列車が遅れました", "cp932"),
    ("방이 아주 깨끗했어요. 서비스가 좋아요. 기차가 늦었어요", "cp949"),
    ("部屋はとてもきれいでした。サービスが良い。", "euc-jp"),
    ("Πού είναι το πακέτο μου; Θέλω επιστροφή χρημάτων.", "cp1253"),
    ("الفندق رائع والطعام ممتاز", "cp1256"),
]


@pytest.mark.parametrize(("text", "encoding"), WRITTEN, ids=[encoding for _, encoding in WRITTEN])
def test_the_command_converts(text, encoding, tmp_path):
    path = tmp_path / "it's.csv"
    content = f"text,label\r\nplain,a\r\n{text},b\r\n"
    path.write_bytes(content.encode(encoding))
    assert find_encoding(path.read_bytes()) == encoding
    command = conversion(encoding, str(path)).split("`")[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)  # the command that users are told
    assert (tmp_path / "utf8-it's.csv").read_bytes().decode() == content


@pytest.mark.parametrize(("text", "encoding"), [one for one in WRITTEN if one[1] != "latin1"])
def test_text_of_any_encoding_is_certain(text, encoding):
    content = f"text,label\nplain,a\n{text},b\n{text},b\n".encode(encoding)
    assert certain_encoding(content.splitlines()) == encoding


@pytest.mark.parametrize("sample", [b"", b"text", b"a\0b", b"abc\0def\n", b"\0" * 20, "größer".encode()])
def test_utf8_is_nothing_else(sample):
    assert wide_encoding(sample) is None
