package exchange

import "time"

// idleTime is how long a goroutine that has done its work waits for more.
const idleTime = time.Second

// start runs f in a goroutine that Close waits for; false means that the
// exchange is closed and f will not run. A goroutine that has just become idle is
// taken first: its stack has grown already, and a project's files are kept in tens of
// thousands of short pieces of work.
func (x *Exchange) start(f func()) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	select {
	case x.jobs <- f:
	default:
		x.wg.Go(func() { x.work(f) })
	}
	return true
}

// work runs f, and then what start has for a goroutine that is idle.
func (x *Exchange) work(f func()) {
	idle := time.NewTimer(idleTime)
	defer idle.Stop()
	for {
		f()
		f = nil // what it holds is not needed while this waits
		idle.Reset(idleTime)
		select {
		case f = <-x.jobs:
		case <-idle.C:
			return
		case <-x.ctx.Done():
			return
		}
	}
}
