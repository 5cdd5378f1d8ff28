"""Where tensorized weights and model files are kept, by content digest: a folder or S3.

Both adapters lay a bundle out alike, so that its uri stays the same from staging to publication:

    bundles/<digest>/<path>                  the files, at their final place from the start
    bundles/<digest>/manifest.staged.json    written last: the bundle is there
    bundles/<digest>/manifest.json           the same, written when the trials passed: the bundle stays
"""
