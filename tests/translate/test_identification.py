from kracauer.translate.identification import LOWER_HALF, Identifications


def test_numbers_follow_one_another_and_wrap() -> None:
    numbers = Identifications(0xFFFE)
    assert [numbers.take() for _ in range(4)] == [0xFFFE, 0xFFFF, 0, 1]


def test_several_are_taken_at_once() -> None:
    numbers = Identifications(10)
    assert [numbers.take(5), numbers.take()] == [10, 15]


def test_the_first_may_be_any_number() -> None:
    assert Identifications(0x12345).take() == 0x2345


def test_half_of_the_numbers_can_be_left_to_somebody_else() -> None:
    numbers = Identifications(0x7FFE, LOWER_HALF)
    assert [numbers.take() for _ in range(3)] == [0x7FFE, 0x7FFF, 0]
