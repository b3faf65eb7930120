"""posttrain: find what holds a language-model checkpoint back, run the stage that removes it, and measure again.

The work is done by three packages, each usable from Python with the words of the command line:

* `posttrain.diagnose` measures how reachable target behaviors are and names the bottleneck and the stage (no torch needed to import it);
* `posttrain.trainers` runs the named stage, and closes the loop;
* `posttrain.analysis` holds the statistics and the figures, and knows no models.
"""

__version__ = "0.1.0"
