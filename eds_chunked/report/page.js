"use strict";
// BokehJS draws the plots in the place of their pictures. Here is what it has no part for: the words of a pixel, and
// the choice of a phase, for a map and the spectra beside it.
(async () => {
  const page = document.documentElement;
  page.classList.add("live");
  try {
    for (const item of JSON.parse(document.getElementById("plots").textContent)) await Bokeh.embed.embed_item(item);
  } catch (error) {
    page.classList.remove("live");
    throw error;
  }
  const model = (id) => Bokeh.documents.map((drawn) => drawn.get_model_by_id(id)).find(Boolean);

  for (const { data_source: source, tags } of Bokeh.documents.map((drawn) => drawn.get_model_by_name("pixels"))
    .filter(Boolean)) {
    const words = source.data.kind.map((image) => Array.from(image, (kind) => tags[0][kind]));
    source.data = { ...source.data, words };
  }

  for (const choices of document.querySelectorAll(".choices")) {
    const mapper = model(choices.dataset.pixels).glyph.color_mapper;
    const colours = mapper.palette;
    const lines = Array.from(choices.querySelectorAll("[data-line]"), (button) => button.dataset.line);
    choices.addEventListener("change", ({ target: { dataset } }) => {
      const all = dataset.kind === undefined;
      for (const line of lines) model(line).visible = all || line === dataset.line;
      mapper.palette = all ? colours : colours.map((own, kind) => (kind === Number(dataset.kind) ? own : "#8080804d"));
    });
  }
})();
