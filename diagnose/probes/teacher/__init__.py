"""The teacher probe: is there something to distil, and should it be taken on the student's own samples or on the teacher's?

**Something to distil**: the teacher's success on the same problems, paired with the student's.

**Where to take it.** On-policy distillation (GKD, arXiv 2306.13649; MiniLLM, arXiv 2306.08543) corrects what the student writes, so the
teacher must see the student's paths and tell right from wrong on them, and the student must come near the teacher's: three numbers.

* *reverse KL* per token, E_student[log student − log teacher] on the student's samples: far where the teacher finds them odd;
* *forward KL* per token, E_teacher[log teacher − log student] on the teacher's samples: far where the student never writes so;
* *right above wrong*: of two samples of one problem, how often the right one has the greater log teacher − log student over the whole
  answer. That is the return of on-policy distillation, and by its exponential the odds of the two answers change where the student becomes
  the teacher. Where the comparison is a coin's toss, the gradient knows nothing of success.

A student far from the teacher's paths is first shown them (`seq_kd`, arXiv 1606.07947). The order is that of the survey: import what is
not reached off policy, correct what is reached on policy (arXiv 2604.07941 §7.2.1).

**Which tokens.** Both terms of a difference come from the models' scorers, so that two equal models are 0 apart and not the distance
between a sampler's and a scorer's precision. Where both engines encode the same prompts and answers to the same ids, the sampled tokens
themselves are scored, the end token in each model's own dialect. Elsewhere the *text* is encoded anew for both models and each scores its
own tokens; the sums are compared and given per token of the student. A text has other tokenisations, which such a sum leaves out: it is a
lower bound.
"""

from posttrain.diagnose.probes.teacher.finding import TeacherOutcome as TeacherOutcome
from posttrain.diagnose.probes.teacher.probe import TeacherProbe as TeacherProbe
