package node

import (
	"context"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/node/policy"
)

// Governance is the part of Control about what may be used, and why it is here.
type Governance interface {
	// PolicyTest says what the policy in force makes of a module version. It is
	// ErrNotRunning for an office that does not run.
	PolicyTest(ctx context.Context, m module.Version) (*Tested, error)
	// PolicyPublish makes a document the policy of the mesh, and PolicyShow returns
	// what was published last.
	PolicyPublish(ctx context.Context, document string) (*MeshPolicy, error)
	PolicyShow(ctx context.Context) (*MeshPolicy, error)
	// Why says how a module version came here.
	Why(ctx context.Context, m module.Version) (*Why, error)
	// Publish adds a module version that comes from no version control, for a module
	// that the admins have allowed this office to publish. It is ErrNotRunning for an
	// office that does not run.
	Publish(ctx context.Context, p Publication) (*Why, error)
}

// Tested is what the policy makes of a module version.
type Tested struct {
	Module   module.Version   `json:"module"`
	Verdict  policy.Verdict   `json:"verdict"` // the one that counts
	Allowed  bool             `json:"allowed"`
	Reason   string           `json:"reason"`
	Verdicts []policy.Verdict `json:"verdicts"` // of each part
	Warnings []string         `json:"warnings"`
	Problems []string         `json:"problems"`
}

// tested is what the rules make of a module version, without the hooks.
func (n *Node) tested(m module.Version) *Tested {
	t := &Tested{
		Module: m, Verdict: n.policy.Decide(m), Verdicts: n.policy.Explain(m),
		Warnings: append([]string{}, n.policy.Warnings()...), Problems: append([]string{}, n.policy.Problems()...),
	}
	t.Allowed, t.Reason = t.Verdict.Rule == policy.Include, t.Verdict.Reason()
	if err := n.mayHold(m.Path); err != nil && t.Allowed {
		t.Allowed, t.Reason = false, err.Error()
	}
	return t
}

// PolicyTest implements Governance. Hooks are asked too.
func (n *Node) PolicyTest(ctx context.Context, m module.Version) (*Tested, error) {
	t := n.tested(m)
	if !t.Allowed {
		return t, nil
	}
	if err := n.validated(ctx, m); err != nil {
		t.Allowed, t.Reason = false, err.Error()
	}
	return t, ctx.Err()
}

// PolicyTest implements Governance.
func (c *Client) PolicyTest(ctx context.Context, m module.Version) (*Tested, error) {
	return ask[*Tested](ctx, c, "policytest", m)
}

// PolicyTest implements Governance.
func (o *Offline) PolicyTest(context.Context, module.Version) (*Tested, error) {
	return nil, ErrNotRunning
}

// checkPolicy is the doctor's view of the policy.
func (n *Node) checkPolicy(context.Context) Finding {
	f := Finding{Check: "policy", Verdict: Good, Detail: "nothing in it is broken"}
	if w := n.policy.Warnings(); len(w) > 0 {
		f.Verdict, f.Detail, f.Advice = Doubt, w[0], "see docs/policy.md"
	}
	if p := n.policy.Problems(); len(p) > 0 {
		f.Verdict, f.Detail, f.Advice = Fault, p[0], "repair it; it is read again by itself"
	}
	return f
}
