"""Who is who, without a database: every pair and order of addresses, and numbers that are somebody else's by now."""

from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ingress.people.addresses import Address, addresses_of
from ingress.people.register import KnownContact, Register
from providers import Contact

ORGANIZATION = UUID(int=7)
ANA = Contact(phone="+5511960003333", lid="88234567890123@lid", user_id="BR.1", parent_user_id="BR.ENT.1")
ADDRESSES = ("phone", "lid", "user_id", "parent_user_id")


def part(contact: Contact, *names: str) -> Contact:
    return Contact(**{name: getattr(contact, name) for name in names})


def known_by(contact: Contact) -> list[Address]:
    return addresses_of(contact, "a_provider", "an_account")


def meet(register: Register, contact: Contact) -> KnownContact:
    return register.meet(ORGANIZATION, known_by(contact), contact)[0]


@st.composite
def meetings(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """Which addresses each event shows: any, in any order, and among them what joins all four."""
    shown = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=4, unique=True).map(tuple)
    some = draw(st.lists(shown, max_size=8))
    order = draw(st.permutations(ADDRESSES))
    joining = list(pairwise(order))
    return draw(st.permutations(some + joining))


@given(meetings())
def test_one_person_is_one_contact_whatever_shows_first(shown: list[tuple[str, ...]]) -> None:
    register = Register(())
    met = [meet(register, part(ANA, *names)) for names in shown]
    assert len({contact.now.id for contact in met}) == 1
    oldest = min(met, key=lambda contact: contact.id)
    assert oldest.now is oldest
    assert set(oldest.addresses) == {address.key for address in known_by(ANA)}
    # Each was merged once, and knows nothing of its own any more.
    assert len(register.merged) == len({contact.id for contact in met}) - 1
    assert all(not contact.addresses for contact in register.merged)


def test_two_people_stay_two() -> None:
    register = Register(())
    bia = Contact(phone="+5511960004444", lid="99234567890123@lid", name="Ana")
    assert meet(register, ANA) is not meet(register, bia)
    assert meet(register, part(ANA, "lid")) is not meet(register, part(bia, "lid"))
    assert not register.merged


def test_organizations_know_nobody_in_common() -> None:
    register = Register(())
    other, _ = register.meet(UUID(int=8), known_by(ANA), ANA)
    assert meet(register, ANA) is not other


def test_another_number_is_a_change_with_the_former_one() -> None:
    register = Register(())
    ana = meet(register, ANA)
    moved = Contact(lid=ANA.lid, phone="+5521970001111")
    met, [change] = register.meet(ORGANIZATION, known_by(moved), moved)
    assert met is ana
    assert [address.value for address in change.former] == [ANA.phone]
    assert [address.value for address in ana.within(("phone", ""))] == [ANA.phone, moved.phone]
    assert register.meet(ORGANIZATION, known_by(moved), moved) == (ana, [])


def test_another_id_beside_the_same_number_is_a_change_too() -> None:
    register = Register(())
    ana = meet(register, part(ANA, "phone", "user_id"))
    again = Contact(phone=ANA.phone, user_id="BR.2")
    met, [change] = register.meet(ORGANIZATION, known_by(again), again)
    assert met is ana
    assert [address.value for address in change.former] == ["BR.1"]


def test_a_number_that_was_given_to_somebody_else_joins_nobody() -> None:
    """Both have an id, and the one who has the number now had another before."""
    register = Register(())
    ana = meet(register, ANA)
    bia = meet(register, Contact(phone="+5511960004444", lid="99234567890123@lid"))
    moved = Contact(phone=ANA.phone, lid="99234567890123@lid")
    assert meet(register, moved) is bia
    assert not register.merged
    assert meet(register, part(ANA, "phone")) is bia
    assert meet(register, part(ANA, "lid")) is ana


def test_a_former_number_under_another_id_is_somebody_else() -> None:
    """Nobody knew who has it now; who had it before keeps the other number, and all that they wrote."""
    register = Register(())
    ana = meet(register, part(ANA, "phone", "lid"))
    moved = Contact(phone="+5521970001111", lid=ANA.lid)
    assert meet(register, moved) is ana
    bia = meet(register, Contact(phone=ANA.phone, lid="99234567890123@lid"))
    assert bia is not ana
    assert meet(register, part(ANA, "phone")) is bia
    assert meet(register, moved) is ana
    assert not register.merged


def test_ids_of_another_scope_are_other_ids() -> None:
    register = Register(())
    ana = meet(register, part(ANA, "user_id"))
    elsewhere = addresses_of(part(ANA, "user_id"), "a_provider", "another_account")
    assert register.meet(ORGANIZATION, elsewhere, ANA)[0] is not ana
    # The number joins them, and both ids stay.
    both = [*elsewhere, *known_by(part(ANA, "phone"))]
    register.meet(ORGANIZATION, both, ANA)
    met, changes = register.meet(ORGANIZATION, [*known_by(part(ANA, "user_id")), *both], ANA)
    assert met is ana.now
    assert [change.former for change in changes] == [()]
    assert len(met.addresses) == 3


def test_names_are_kept_with_since_when() -> None:
    register = Register(())
    ana = meet(register, Contact(phone=ANA.phone, name="Ana", username="ana"))
    since = ana.name_since
    meet(register, Contact(phone=ANA.phone, name="Ana"))
    assert (ana.name, ana.username, ana.name_since) == ("Ana", "ana", since)
    meet(register, Contact(phone=ANA.phone, name="Ana Souza" + "a" * 1000))
    assert ana.name_since is not None
    assert since is not None
    assert ana.name_since > since
    assert len(ana.name or "") == 256


def test_a_name_of_who_was_merged_is_not_lost() -> None:
    register = Register(())
    first = meet(register, part(ANA, "lid"))
    meet(register, Contact(phone=ANA.phone, name="Ana", username="ana"))
    meet(register, part(ANA, "lid", "phone"))
    assert (first.now.name, first.now.username) == ("Ana", "ana")


@given(st.text(min_size=200), st.text(min_size=200))
def test_long_addresses_fit_into_an_index_and_stay_apart(one: str, other: str) -> None:
    [first], [second] = (known_by(Contact(user_id=text)) for text in (one, other))
    assert max(len(first.key), len(first.value)) <= 256
    assert (first.key == second.key) is (one == other)
