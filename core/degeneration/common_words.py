"""The most common short words of languages in Latin and Cyrillic script, and the part of running text that they make up.

Written by hand. A share is a typical one for prose, rounded down.
"""

from __future__ import annotations

# ruff: noqa: RUF001 - Cyrillic letters that look like Latin ones

_TEXT = """
en 0.40 the of and to a in is it you that he was for on are as with his they i at be this have from or had by not but what all
were we when your can said there an which she do how their if will up about out them then so some her would like him into has more
no way could my than been who its now did get may over any also our here these don't it's i'm me us just only very because after
where

de 0.36 der die das und ist in zu den von mit nicht ein eine sich auf für es im dem des auch als an er sie wir ich so dass wie
oder aber bei nach aus sind war hat haben werden wird einen einer um noch nur kann wenn man vor zum zur durch über mir mich meine
ihre

fr 0.38 le la les de des du un une et est en à que qui dans pour pas ne sur au aux avec ce cette se sa son ses il elle nous vous
ils on je plus par mais ou où sont être avait était leur y tout comme si même sans d l n qu s c j

es 0.36 el la los las de del un una y es en a que se no por para con su sus al lo como más pero o este esta son ha me mi le les ya
cuando muy sin sobre también hay ser fue era si entre todo él ella nos

it 0.32 il lo la i gli le di del della e è in a che non un una per con si da al ma come più sono ha o se nel alla dei delle su
anche era mi

pt 0.34 o a os as de do da dos das um uma e é em no na que não para por com se ao mais mas como sua seu ou ser foi são você me à
nos

nl 0.38 de het een en van is in dat op te niet zijn met voor er aan om ook als maar of bij dan uit naar nog wel ik je hij ze we u
door die was

sv 0.34 och i att det som en på är av för med den till inte har de ett om han var jag men så sig från vi du kan när hade man ska
mot

da 0.34 og i at det som en på er af for med den til ikke har de et om han var jeg men så sig fra vi du kan når havde man skal hun

pl 0.22 i w na nie się z do to że o jak za po ale od przez jest są a co tym był dla już tak czy może tylko ich lub oraz jego ze

cs 0.22 a v na se je že s z do o to i pro jako by za ale po jsou od tak byl má k si ve co nebo který jeho mezi před

fi 0.14 ja on ei että se hän oli ovat olla kun niin mutta tai myös joka jos vain kuin minä sen ne nyt sitä mitä heidän

tr 0.10 ve bir bu da de için ile çok ne var daha ama gibi olarak o en kadar sonra ben her mi değil ya şey olan

hu 0.24 a az és hogy nem is egy van meg de ha csak már volt ez mint el ki be azt még vagy minden kell le fel

vi 0.22 và của là có được cho trong không một các những với người đã này để khi về từ ra ở tôi đến như cũng mọi sẽ phải theo

id 0.18 yang dan di ini itu dengan untuk dari tidak dalam pada akan juga ke karena ada oleh saya sudah atau adalah bisa mereka
kita

ro 0.30 și în de la a cu o un nu pe care este să din că se mai ce al ale sunt pentru dar au fost lui ca după

ru 0.22 и в не на что с он я как это по но из у за то к а от все так же для о его мы бы она или до если уже ты вы их был когда

uk 0.20 і в не на що з він я як це по але із у за то до а від всі так та для о його ми б вона або є й щоб коли
"""
"""By paragraphs: a language, its share, and its words."""


def _words(text: str) -> list[str]:
    return text.split()


_LISTS = tuple(paragraph.split() for paragraph in _TEXT.split("\n\n"))
SHARES = tuple(float(words[1]) for words in _LISTS)
"""Of each language the share of its common words in prose."""


def _languages_of() -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for at, words in enumerate(_LISTS):
        for word in words[2:]:
            found.setdefault(word, []).append(at)
    return {word: tuple(places) for word, places in found.items()}


LANGUAGES_OF = _languages_of()
"""By a common word the languages (places in `SHARES`) in which it is one."""

_ENGLISH_ARTICLES = _words("the a an my your our their every")
ARTICLES = frozenset([*_ENGLISH_ARTICLES, *_words("der die das ein eine einen einem einer les une des el los las una gli het een")])
_NOT_AFTER_ARTICLE = frozenset(
    _words(
        "the a an of is are was were be been and or in to at by for from with he she they we i you had has have does did not if than"
        " because but it's that's don't it as on who when"
    )
)
NEVER_AFTER = {
    **dict.fromkeys(_ENGLISH_ARTICLES, _NOT_AFTER_ARTICLE),
    **dict.fromkeys(_words("of with at from for by"), frozenset(_words("is are was were of"))),
    "a": _NOT_AFTER_ARTICLE - {"is"},
    "to": frozenset(_words("is are was were of has had")),
    **dict.fromkeys(_words("is are was were be"), frozenset(_words("is are was were be"))),
    "i": frozenset(_words("is are has does")),
    **dict.fromkeys(_words("you we they"), frozenset(_words("is was has does am"))),
    **dict.fromkeys(_words("he she it"), frozenset(_words("are am"))),
    "very": frozenset(_words("a an the is are was of to in and")),
}
"""By an English word the words that (almost) never follow it in a sentence."""
