package member

// maxArrivals bounds how many of the newest statements a roster tells in the order in
// which they came.
const maxArrivals = 512

// arrived notes that a statement has entered the set.
func (r *Roster) arrived(s Statement) {
	r.sum = nil
	r.arrivals++
	if len(r.newest) >= maxArrivals {
		r.newest = r.newest[1:] // append moves the rest to new memory in time
	}
	r.newest = append(r.newest, s)
}

// Arrivals counts the statements that have ever entered the set.
func (r *Roster) Arrivals() uint64 { return r.arrivals }

// Since returns the statements that entered after the first n, oldest first: what to
// tell one who had all that was here then. It returns nothing if they are more than
// limit bytes or than are remembered; comparing IDs is cheaper then. Statements that
// newer ones have replaced since are among them.
func (r *Roster) Since(n uint64, limit int) []Statement {
	first := r.arrivals - uint64(len(r.newest))
	if n < first || n > r.arrivals {
		return nil
	}
	news := r.newest[n-first:]
	for _, s := range news {
		if limit -= s.Size(); limit < 0 {
			return nil
		}
	}
	return news[:len(news):len(news)]
}

// Size is about what a statement takes in a message, in bytes.
func (s Statement) Size() int {
	return len(s.Credential) + len(s.Revocation) + len(s.Policy) + 16
}
