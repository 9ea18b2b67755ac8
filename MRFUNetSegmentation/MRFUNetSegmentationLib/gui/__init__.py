"""The panel. Decisions are taken in modules without Qt (panel_state, run_controller, model_list,
device_list, torch_installation); panel and model_section only show them and pass actions on."""
