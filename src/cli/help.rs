//! What `--help` shows below the flags: examples, and what goes where.

pub(super) const RUN: &str = "Examples:
  Every resource brings its own credential (spec.credentials):
    astro-token-operator run
  Resources in the namespace data may use the operator's own credential:
    astro-token-operator run --api-token-file /etc/astro/token --default-credentials-namespaces data
  Work in two namespaces only, with a Role in each, and without a list of Secrets:
    astro-token-operator run --namespaces data,ml --secret-access get
  Try it on a laptop against the current kubeconfig, with more to read:
    astro-token-operator run --leader-election=false --log-filter info,astro_token_operator=debug

HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured for calls to Astro.";

pub(super) const ROTATE: &str = "Examples, with a Workspace Owner's API token in the variable ASTRO_API_TOKEN:
  On a terminal: shows what is about to die, and asks first:
    astro-token-operator rotate --name 'My token'
  In a script: the value and nothing else, and no question:
    value=$(astro-token-operator rotate --name 'My token' --force --clean-output)
  Into a Secret, which a WorkspaceTokenRotation can take over later without a rotation:
    astro-token-operator rotate clm8q7f6q000008lcgyougpsk --into-secret data/ci-deployer-token

The value goes to stdout, all else to stderr. The exit code is 0 only if the value was handed over. The credential is \
never written to disk. An operator that owns the token notices a rotation by hand, and rotates once more; see trigger.";

pub(super) const STATUS: &str = "Examples:
  The namespace of the current context:
    astro-token-operator status
  All namespaces, and then each change until Ctrl-C:
    astro-token-operator status -A --watch
  What is not ready, for a program:
    astro-token-operator status -A -o json | jq '.[] | select(.ready | not)'

AGE is how old the value in the Secret is: since the time that Astro gave it, else since its rotation by the operator's \
clock. NEXT is when it is rotated next. Why one is not ready stands below the table.";

pub(super) const TRIGGER: &str = "Examples:
  Ask, and go on:
    astro-token-operator trigger ci-deployer
  Ask for two, and wait until their Secrets hold live values again:
    astro-token-operator trigger ci-deployer etl --wait=5m

It writes the annotation astro-token-operator.io/rotate, and the operator does the rest.";

pub(super) const ABOUT_REVOKE: &str = "Rotate tokens now because their values may have leaked

Today this does what `trigger` does: Astro's rotation kills the value that is in the Secret at once, and there is no \
second one; the request is kept apart from `trigger` for resources that take turns with two tokens, which do not exist yet.";

pub(super) const REVOKE: &str = "Example:
  Kill the value that is in the Secret, and wait until another one has taken its place:
    astro-token-operator revoke ci-deployer --wait

It writes the annotation astro-token-operator.io/revoke, and the operator does the rest.";

pub(super) const EXPLAIN: &str = "Examples:
  All reasons, one line each:
    astro-token-operator explain
  One of them, as it stands in `kubectl get wtr`:
    astro-token-operator explain TokenAmbiguous";

pub(super) const PLAN: &str = "Examples:
  All resources of the context's namespace:
    astro-token-operator plan
  A file before it is applied, without a cluster too:
    astro-token-operator plan -f rotation.yaml
  With the operator's permissions instead of your own:
    astro-token-operator plan --as system:serviceaccount:astro-token-operator:astro-token-operator

Permissions are checked of whoever asks, which is you without --as. Evidence is read now, from the API server and from \
Astro; nothing is written: no status, no event, and to the Secret no more than a dry run.

Exit codes:
  0  every resource can be worked on: it is idle, would be rotated, or waits in the normal course
  1  the command failed: no such resource, a file that cannot be read, no answer from the cluster
  2  the command line is wrong
  3  a resource is blocked, or a check says no";

pub(super) const COMPLETION: &str = "Examples:
  bash:  source <(astro-token-operator completion bash)
  zsh:   source <(astro-token-operator completion zsh)
  fish:  astro-token-operator completion fish | source
Put the line into the shell's start-up file to have it in every new shell.";
