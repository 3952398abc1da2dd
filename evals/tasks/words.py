"""The vocabulary of the agent tasks: every word that a sample can hold, by kind.

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
FIELDS: Final = {"name": NAMES, "city": CITIES, "colour": COLOURS, "item": THINGS, "day": DAYS}
"""Each field of a record with its values."""
CUE: Final = "=>"
"""Ends every prompt: the answer follows."""
STOP: Final = "."
"""Ends every answer."""
GLUE: Final = (
    *(CUE, STOP, ";", ":", "(", ")", "tools", "user", "please", "now", "can", "you", "i", "want"),
    *("records", "field", "fields", "of", "and", "a", "the", "in", "bought", "sold", "was", "sent", "by"),
    *("notes", "is", "where", "place", "hour", "under", "staff", "up", "down", "chain"),
    *("lists", "list", "first", "last", "word", "reverse", "repeat", "times", "loud", "without", "say"),
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
