/** The page put together from its views. */

import { listenForKey } from './access.js';
import { byId } from './dom.js';
import { openIntake } from './intake.js';
import { openJobStart } from './jobs/start.js';
import { openJobs } from './jobs/list.js';
import { jobView } from './jobs/view.js';
import { modelsView } from './models/view.js';
import { openOptions } from './options_form.js';
import { openPhotos } from './photos/view.js';
import { watchReadiness } from './service_state.js';
import { currentView, openViews, place } from './views.js';

const chosenOptions = openOptions();
const photos = openPhotos(chosenOptions);
const jobStart = openJobStart(chosenOptions);
const jobs = openJobs();

/** @type {Record<string, import('./views.js').View>} */
const views = {
  photos: { title: 'Photos', hasOptions: true, keepsPlace: true },
  jobs: { title: 'Jobs', hasOptions: true, enter: enterJobs, leave: jobs.leave },
  job: { title: 'Job', ...jobView() },
  models: { title: 'Models', ...modelsView() },
};
openViews(views);
openIntake((intake) => {
  if (currentView() === 'jobs') {
    jobStart.add(intake);
    return;
  }
  if (currentView() !== 'photos') location.hash = 'photos';
  photos.add(intake);
});
listenForKey(() => {
  watchReadiness();
  const entered = currentView();
  if (entered === 'photos') {
    photos.tryWithKey();
    return;
  }
  views[entered].enter?.(place().id);
  byId('main').focus(); // the field that had the focus is hidden now
});
watchReadiness();

function enterJobs() {
  jobs.enter();
  jobStart.enter();
}
