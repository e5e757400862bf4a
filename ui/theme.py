"""The page's colours and measures as a Gradio theme; page.css uses them as variables, light and dark."""

import gradio as gr

ACCENT, ACCENT_DARK = "#3b5bdb", "#7c96ff"


VALUES = {
    "body_background_fill": "#f7f7f5",
    "body_background_fill_dark": "#151517",
    "body_text_color": "#1d1c1a",
    "body_text_color_dark": "#ececf0",
    "body_text_color_subdued": "#6f6b63",
    "body_text_color_subdued_dark": "#9d9da6",
    "body_text_size": "14px",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#1e1e21",
    "background_fill_secondary": "#f7f7f5",
    "background_fill_secondary_dark": "#26262a",
    "border_color_primary": "#e6e4df",
    "border_color_primary_dark": "#313136",
    "border_color_accent": ACCENT,
    "border_color_accent_dark": ACCENT_DARK,
    "color_accent": ACCENT,
    "color_accent_soft": "#eef1fd",
    "color_accent_soft_dark": "#262c47",
    "block_background_fill": "*background_fill_primary",
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_padding": "0px",
    "block_radius": "12px",
    "block_label_text_size": "13px",
    "block_info_text_color": "*body_text_color_subdued",
    "block_info_text_size": "12px",
    "block_title_text_size": "13px",
    "block_title_text_color": "*body_text_color",
    "block_title_text_weight": "400",
    "layout_gap": "14px",
    "form_gap_width": "0px",
    "input_background_fill": "*background_fill_primary",
    "input_background_fill_dark": "*background_fill_primary",
    "input_border_color": "*border_color_primary",
    "input_border_width": "1px",
    "input_radius": "8px",
    "input_padding": "9px 12px",
    "input_text_size": "14px",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_border_color_focus": "*color_accent",
    "input_placeholder_color": "*body_text_color_subdued",
    "button_primary_background_fill": ACCENT,
    "button_primary_background_fill_dark": ACCENT_DARK,
    "button_primary_background_fill_hover": "#324fc4",
    "button_primary_background_fill_hover_dark": "#93a8ff",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#10121c",
    "button_primary_border_color": "transparent",
    "button_primary_border_color_dark": "transparent",
    "button_primary_shadow": "none",
    "button_secondary_background_fill": "*background_fill_primary",
    "button_secondary_background_fill_dark": "*background_fill_primary",
    "button_secondary_background_fill_hover": "*background_fill_secondary",
    "button_secondary_background_fill_hover_dark": "*background_fill_secondary",
    "button_secondary_border_color": "*border_color_primary",
    "button_secondary_text_color": "*body_text_color",
    "button_border_width": "1px",
    "button_large_radius": "9px",
    "button_large_text_size": "14px",
    "button_large_padding": "10px 18px",
    "button_transform_hover": "none",
    "checkbox_background_color_selected": "*color_accent",
    "checkbox_border_color_selected": "*color_accent",
    "checkbox_border_width": "0px",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_hover": "transparent",
    "checkbox_label_background_fill_selected": "transparent",
    "checkbox_label_border_width": "0px",
    "checkbox_label_padding": "0px",
    "checkbox_label_text_weight": "400",
}
"""What `Base.set` takes: every colour has a dark twin."""


def build_theme() -> gr.themes.Base:
    """Plain system fonts, so that nothing is fetched."""
    theme = gr.themes.Base(
        font=["system-ui", "Inter", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
    ).set(**VALUES)
    # Any attribute becomes a CSS variable with its dark twin; Base.set() has no parameter for these.
    theme.color_accent_dark = ACCENT_DARK
    theme.lens_good, theme.lens_good_dark = "#237a35", "#69db7c"
    theme.lens_off, theme.lens_off_dark = "#8f8b83", "#65656e"
    theme.lens_warn, theme.lens_warn_dark = "#8a5a00", "#ffc078"
    theme.lens_bad, theme.lens_bad_dark = "#c92a2a", "#ff8787"
    theme.lens_bad_soft, theme.lens_bad_soft_dark = "#fdf0ef", "#3a2325"
    return theme
