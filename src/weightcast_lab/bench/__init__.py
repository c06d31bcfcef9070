"""The benchmark: predicted layers and their peers against dense layers, measured in turn.

Read in this order: ``cases`` (what is measured), ``recipes`` and ``peers`` (what takes the place of
its dense layers), ``contenders`` (one of these, built), ``timing``, ``memory``, ``counts`` and
``protocol`` (how), ``block`` (contenders side by side), ``bench_presets`` and ``run`` (which),
``table``.
"""
