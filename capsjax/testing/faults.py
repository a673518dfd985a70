"""The faults that the checks can name, each with its remedy."""

SOFTMAX_OVER_CHILDREN = (
    "the softmax runs over the lower capsules. A child divides itself among the upper capsules: "
    "take the softmax over axis j of the logits (n, i, j)."
)
SOFTMAX_OVER_BATCH = "the softmax runs over the batch. Take it over axis j of the logits (n, i, j)."
SOFTMAX_OVER_BOTH = (
    "the softmax runs over lower and upper capsules jointly. Take it over axis j of the logits "
    "(n, i, j), for each child on its own."
)
NO_SOFTMAX = (
    "the couplings are no softmax over the upper capsules, or something was multiplied into them "
    "or added to them afterwards. Claim couplings='any' if that is meant."
)
SHARED_LOGITS = (
    "the logits are shared by the batch: they have no batch axis, or agreement is summed or "
    "averaged over it. Give every example logits (n, i, j) of its own. (Or a batch norm uses the "
    "statistics of the batch: check it in evaluation mode.)"
)
SQUEEZE = (
    "an axis of size 1 is dropped, as by squeeze() without an axis. Name the axis that is to go."
)
MEMORY = (
    "something survives the call, such as logits that start where the last call ended, or random "
    "numbers are drawn."
)
IN_PLACE = "an operation in place, such as +=, changes the caller's array."
CONSTANT_COUPLINGS = (
    "the couplings never learn of the agreement: there is only one round, the logits are not "
    "updated, or the agreement is the same for all upper capsules. Claim competition=False and "
    "agreement=False for a control without routing."
)
NO_COMPETITION = (
    "the softmax runs over the lower capsules, so that upper capsules do not compete, or the "
    "couplings are the same for all children (one round, logits that are not updated, or an "
    "agreement that is summed over the children). Claim competition=False if that is meant."
)
WRONG_AGREEMENT = (
    "the agreement is summed over the wrong axis. Agreement of child i with parent j sums "
    "u_hat[n, i, j, d] * v[n, j, d] over the pose axis d alone, and stays (n, i, j). Claim "
    "agreement=False for an algorithm without any."
)
MIXED_AXES = (
    "one of these axes is taken for the other, as when the agreement is summed over the wrong axis "
    "or a squash runs along the wrong one."
)
CHILD_ORDER = (
    "a reshape mixes the axis of children with another, or children are treated by their number. "
    "Claim symmetric_children=False if they have parameters of their own."
)
PARENT_ORDER = (
    "a sum or a squash runs over the upper capsules, a reshape mixes their axis with another, or "
    "they are treated by their number. Claim symmetric_parents=False if they have parameters of "
    "their own."
)
REVERSED_MASK = "the mask's meaning is reversed: 0 stands for a capsule that is left out."
MASK = (
    "the mask is not applied to everything that is summed over the children. Give masked children "
    "couplings of 0 in every round."
)
RELU = (
    "a ReLU is applied to poses or lengths. Poses have signs, and only their length expresses "
    "activation: remove it."
)
SOFTMAX_ON_LENGTHS = (
    "a softmax is applied to the lengths or activations. Each upper capsule has an activation of "
    "its own, so several can be present: remove the softmax (the margin loss takes lengths)."
)
NOT_THE_LENGTH = (
    "the activation is not the length of the returned pose. Claim another readout if it is not "
    "meant to be."
)
NO_PROBABILITY = (
    "the activation is not passed through a sigmoid: there is none, or a ReLU in its place."
)
NO_SQUASH = "the poses are not squashed. Claim length='any' if they are not meant to be."
SQUASH_AXIS = "the squash runs along the axis of capsules. Take the norm along the pose axis d."
WRONG_SQUASH = (
    "another squash than the claimed one, couplings that do not sum to 1 over the upper capsules, "
    "or something is added to the weighted sum."
)
NOT_NORMALIZED = "the votes are summed without couplings."
DIVIDED = "the weighted sum is divided by the number of children or the sum of their couplings."
ZERO = (
    "a norm, a logarithm or a quotient is taken of zero. Put a small number inside the root, use "
    "log_softmax and log_sigmoid, and add a small number to the divisor."
)
ZERO_GRADIENT = (
    "the derivative of a root or a norm at zero is infinite. Add a small number inside the root: "
    "sqrt(sum(s**2) + 1e-7)."
)
OVERFLOW = (
    "exp of something large. Subtract the largest logit first (softmax, log_softmax and logsumexp "
    "of a library do), and compute with log-probabilities. (Where votes of 0 fail too, it can also "
    "be a capsule that is left without votes.)"
)
NO_GRADIENT = (
    "the votes are detached, or pass through an operation without a gradient. Stop gradients at "
    "the couplings at most, not at the votes of the last weighted sum."
)
NOT_DIFFERENTIABLE = (
    "it has an operation without a derivative, such as a loop of unknown length. Claim "
    "differentiable=False for a function that is never trained."
)
ACTIVATION_IGNORED = (
    "the activations of the lower capsules have no effect: they are not used, or they cancel in "
    "a quotient."
)
ACTIVATION_CANCELS = (
    "the activations cancel: numerator and denominator both have them. Normalise the couplings "
    "without the activations, and keep the total mass in the upper activation."
)
ABSENT_CHILD_VOTES = (
    "the activation does not weigh everything that is summed over the children. Multiply it into "
    "the couplings of the weighted sum, the variance and the total mass."
)
NO_SHARES = (
    "the activations are not divided by their sum. Claim activations='weights' if they are not "
    "meant to be."
)
WRONG_ROUNDS = "the number of rounds is off. One round is softmax, weighted sum and squash."
NOT_DYNAMIC = (
    "a step differs from dynamic routing: b = 0; each round c = softmax_j(b), v = squash(sum_i c "
    "u_hat), b += u_hat . v."
)
