"""The web page of `bootdiff ui`: what it may touch (`site`), what it computes (`work`, `models`, `drawing`,
`restoring`), what it starts (`processes`), and what is seen (`markup`, `parts`, `tab_*`, `layout`), served by `serve`.
Only `parts`, `tab_*` and `layout` need gradio."""
