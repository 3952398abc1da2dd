"""The vocabulary of the agent tasks: every word that a sample can contain, by kind.

The demo family's tokenizer gives each of them one id.
"""

from typing import Final

NAMES: Final = (
    *("anna", "bob", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "jade", "kofi", "lena"),
    *("milo", "nora", "omar", "pia", "quin", "rosa", "sam", "tess", "umar", "vera", "will", "yara"),
)
CITIES: Final = (
    *("paris", "rome", "oslo", "cairo", "lima", "delhi", "tokyo", "quito"),
    *("accra", "berne", "dakar", "hanoi", "kyiv", "lagos", "milan", "perth"),
)
THINGS: Final = (
    *("lamp", "kite", "rope", "drum", "coin", "boat", "cup", "door", "fork", "gate", "hat", "ink"),
    *("jar", "key", "leaf", "mask", "nail", "oar", "pen", "quilt", "ring", "sail", "tent", "vase"),
)
LOUD_THINGS: Final = tuple(thing.upper() for thing in THINGS)
COLOURS: Final = ("red", "blue", "green", "black", "white", "pink", "grey", "gold")
DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS: Final = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
)
TOOLS: Final = {
    "book_flight": ("fly", "reserve"),
    "send_mail": ("mail", "write"),
    "play_music": ("play", "sing"),
    "rent_car": ("rent", "drive"),
    "order_food": ("cook", "eat"),
    "set_alarm": ("wake", "remind"),
    "find_hotel": ("sleep", "stay"),
    "pay_bill": ("pay", "settle"),
    "call_taxi": ("ride", "fetch"),
    "plan_trip": ("plan", "tour"),
    "log_hours": ("log", "record"),
    "print_file": ("print", "copy"),
}
"""Each tool with the verbs that ask for it."""
ARGUMENTS: Final = {
    "to": CITIES,
    "from": CITIES,
    "on": DAYS,
    "for": NAMES,
    "with": NAMES,
    "about": THINGS,
    "at": NUMBERS,
}
"""Each argument of a tool with the values it takes."""
FIELDS: Final = {
    "buyer": NAMES,
    "seller": NAMES,
    "city": CITIES,
    "town": CITIES,
    "item": THINGS,
    "gift": THINGS,
    "colour": COLOURS,
    "day": DAYS,
    "hour": NUMBERS,
}
"""Each field of a record with its values."""
STOP: Final = "."
"""Ends every answer."""
GLUE: Final = (
    *(STOP, ";", ":", "(", ")", "tools", "user", "please", "now", "can", "you", "i", "want"),
    *("order", "field", "fields", "the", "a", "with", "and", "notes", "find", "all", "of"),
    *("staff", "one", "two", "up", "chain", "lists", "list", "say", "first", "last", "reverse", "repeat"),
    *("three", "times", "loud", "without"),
)
"""Words that hold the sentences together."""

VOCABULARY: Final[tuple[str, ...]] = tuple(
    dict.fromkeys(
        (
            *GLUE,
            *ARGUMENTS,
            *FIELDS,
            *TOOLS,
            *(verb for verbs in TOOLS.values() for verb in verbs),
            *NAMES,
            *CITIES,
            *THINGS,
            *LOUD_THINGS,
            *COLOURS,
            *DAYS,
            *NUMBERS,
        )
    )
)
"""Every word once, in a fixed order."""
