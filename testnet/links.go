package testnet

import "github.com/meshproxy/meshproxy/testnet/toxic"

// Link has all that offices say to each other pass links that can be cut, as those of
// package toxic. It comes before the first office.
func (n *Net) Link(p toxic.Path) {
	n.t.Helper()
	if len(n.offices) > 0 {
		n.t.Fatal("an office was there before the links")
	}
	n.links = toxic.New(p)
}

// attach puts an office at the end of links, if there are any.
func (o *Office) attach() {
	n := o.net
	n.t.Helper()
	if n.links == nil {
		return
	}
	var err error
	if o.site, err = n.links.Attach(o.Name, 0); err != nil {
		n.t.Fatal(err)
	}
	o.config.P2P, o.config.Reach.Announce = []string{o.site.P2P()}, []string{o.site.Front()}
}

// CutOneWay lets all that one office says to another vanish, or pass again. It takes
// links.
func (n *Net) CutOneWay(from, to *Office, cut bool) {
	n.t.Helper()
	if n.links == nil {
		n.t.Fatal("there are no links to cut")
	}
	if err := n.links.CutOneWay(from.site, to.site, cut); err != nil {
		n.t.Error(err)
	}
}

// Heal lets everything pass again.
func (n *Net) Heal() {
	n.t.Helper()
	for _, from := range n.offices {
		for _, to := range n.offices {
			if from != to {
				n.CutOneWay(from, to, false)
			}
		}
	}
}

// closeLinks ends them, after all offices.
func (n *Net) closeLinks() error {
	if n.links == nil {
		return nil
	}
	return n.links.Close()
}
