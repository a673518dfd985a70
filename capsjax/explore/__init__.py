"""The explorer: a page with a trained network behind it, opened by `capsjax explore`.

encoding     pictures to and from text, as a page holds them
inputs       from a picture to an image that the network takes
samples      images to choose from
places       where in the image the capsules below the class capsules look
network      a predictor, and all that the page shows of an image
views        what the network makes of an image, as HTML and SVG
panel        what a person gives to the page, and what the panel of a network then shows
page_parts   the parts of the page and their places, in Gradio
page         what happens on the page; nothing imports it but its command
server       what is served, and to whom

The files .js and .css are the parts of the page that answer at once, in the browser.
"""
