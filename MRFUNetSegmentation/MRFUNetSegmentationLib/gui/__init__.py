"""The panel. Decisions are taken in modules without Qt; `panel` and `sections` only show them and
pass actions on."""
