"""The module `autoattack` that robustbench imports, made of pyautoattack.

The authors' package is not on the package index, and robustbench 1.1.1 from there does not declare it. pyautoattack is the
same code under another name with other argument names; this gives it the original ones. Nothing else is changed: no
attack, no number of steps.
"""

import pyautoattack


class AutoAttack(pyautoattack.AutoAttack):
    """With the call signature of fra31/auto-attack."""

    def __init__(
        self,
        model,
        norm="Linf",
        eps=0.3,
        seed=None,
        verbose=True,
        attacks_to_run=[],  # noqa: B006  # the original's signature
        version="standard",
        is_tf_model=False,
        device="cuda",
        log_path=None,
    ):
        if is_tf_model:
            raise NotImplementedError("TensorFlow models are not in pyautoattack")
        # pyautoattack refuses a list of attacks beside a version that has its own; the original replaces an empty one.
        attacks = list(attacks_to_run) or None
        super().__init__(model, norm=norm, eps=eps, seed=seed, attacks=attacks, version=version, device=device)
        self.verbose = verbose

    def run_standard_evaluation(self, x_orig, y_orig, bs=250, return_labels=False, state_path=None):
        x_adv, y_adv = super().run_standard_evaluation(x_orig, y_orig, batch_size=bs, state_path=state_path)
        return (x_adv, y_adv) if return_labels else x_adv
