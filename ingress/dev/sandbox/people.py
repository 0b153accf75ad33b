"""People who write: the same ones, with the same words, at each provider."""

import random

TEXTS = (
    "Olá, tudo bem? 🙂",
    "Qual o preço do frete para São Paulo/SP?",
    "Segue o link: https://example.org/pedido/1234?a=1&b=2",
    "مرحبا، هل المتجر مفتوح اليوم؟",
    "ありがとうございます 👍🏾",
    "Obrigado!\nAté amanhã.",
)
NAMES = ("Ana Souza", "João Ação", "Pat Example", "🐶", "Þórdís Ævarsdóttir", "محمد")


class People:
    """*count* invented people who write to *account*. The same *seed* gives the same ids, people and words;
    None gives new ones, as a database that remembers the last run needs.
    """

    def __init__(self, account: str, seed: int | None, count: int) -> None:
        self._rng = random.Random(None if seed is None else f"{seed} {account}")  # noqa: S311  no keys are made of it
        self._phones = [f"+55119{self._rng.randrange(10**8):08d}" for _ in range(count)]

    def _phone(self, given: str | None) -> str:
        return given or self._rng.choice(self._phones)

    def _words(self, given: str | None) -> str:
        return self._rng.choice(TEXTS) if given is None else given


def name_of(phone: str) -> str:
    return NAMES[int(phone.lstrip("+")) % len(NAMES)]
