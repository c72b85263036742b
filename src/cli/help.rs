//! What `--help` shows below the flags: examples, and what is printed where.

pub(super) const RUN: &str = "Examples:
  Every resource has its own credential (spec.credentials):
    astro-token-operator run
  Resources in the namespace data may use the operator's own credential, for one Workspace:
    astro-token-operator run --api-token-file /etc/astro/token \\
      --default-credentials-namespaces data=clm8q7f6q000008lcgyougpsk
  Work in two namespaces only, with a Role in each, and without permission to list Secrets:
    astro-token-operator run --namespaces data,ml --secret-access get
  Try it on a laptop against the current kubeconfig, with a more detailed log:
    astro-token-operator run --leader-election=false --log-filter info,astro_token_operator=debug

HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured for calls to Astro.";

pub(super) const ROTATE: &str = "Examples, with a Workspace Owner API token in the variable ASTRO_API_TOKEN:
  On a terminal, where it shows the token and asks before it rotates:
    astro-token-operator rotate --name 'My token'
  In a script, where it prints the value and nothing else, and does not ask:
    value=$(astro-token-operator rotate --name 'My token' --force --clean-output)
  Into a Secret that a WorkspaceTokenRotation can take over later without another rotation:
    astro-token-operator rotate clm8q7f6q000008lcgyougpsk --into-secret data/ci-deployer-token

The value is printed to stdout, everything else to stderr. The exit code is 0 only if the value was delivered. The \
credential is never written to disk. If an operator manages the token, it notices a rotation by hand and rotates the \
token once more; use trigger instead.";

pub(super) const STATUS: &str = "Examples:
  The namespace of the current context:
    astro-token-operator status
  All namespaces, followed by each change until Ctrl-C:
    astro-token-operator status -A --watch
  What is not ready, for a program:
    astro-token-operator status -A -o json | jq '.[] | select(.ready | not)'

AGE is how old the value in the Secret is, by Astro's clock if Astro said when it was issued, and otherwise by the \
operator's. NEXT is when it is rotated next. Below the table is why a resource is not ready.";

pub(super) const TRIGGER: &str = "Examples:
  Request a rotation, and do not wait for it:
    astro-token-operator trigger ci-deployer
  Request two, and wait until both Secrets hold live values again:
    astro-token-operator trigger ci-deployer etl --wait=5m

It writes the annotation astro-token-operator.io/rotate on the resource, and the operator does the rest.";

pub(super) const ABOUT_REVOKE: &str = "Rotate tokens now because their values may have leaked

With one token this does the same as `trigger`: Astro's rotation invalidates the value in the Secret at once, and there is \
no second one. With two tokens that take turns, `trigger` leaves the value before valid, and `revoke` ends that one too: two \
minutes after the new value is stored, so that consumers have time to follow, or at once with --now. Afterwards no value is \
valid that was issued before the request.";

pub(super) const REVOKE: &str = "Example:
  Invalidate the value in the Secret, and wait until a new one has replaced it:
    astro-token-operator revoke ci-deployer --wait
  The same with two tokens, without giving consumers time to follow:
    astro-token-operator revoke ci-deployer --now --wait

It writes the annotation astro-token-operator.io/revoke on the resource, and the operator does the rest.";

pub(super) const EXPLAIN: &str = "Examples:
  All reasons, one line each:
    astro-token-operator explain
  One of them, as `kubectl get wtr` shows it:
    astro-token-operator explain TokenAmbiguous";

pub(super) const PLAN: &str = "Examples:
  All resources in the context's namespace:
    astro-token-operator plan
  A file before it is applied, which works without a cluster too:
    astro-token-operator plan -f rotation.yaml
  With the operator's permissions instead of your own:
    astro-token-operator plan --as system:serviceaccount:astro-token-operator:astro-token-operator

The permissions that are checked are yours, or those of the user in --as. The state is read now, from the API server \
and from Astro. Nothing is written: no status and no event, and the write to the Secret is a dry run.

Exit codes:
  0  no resource is blocked: each is idle, would be rotated, or waits as it normally does
  1  the command failed: no such resource, an unreadable file, or no answer from the cluster
  2  the command line is invalid
  3  a resource is blocked, or a check failed";

pub(super) const COMPLETION: &str = "Examples:
  bash:  source <(astro-token-operator completion bash)
  zsh:   source <(astro-token-operator completion zsh)
  fish:  astro-token-operator completion fish | source
Add the line to the shell's start-up file to have completion in every new shell.";
