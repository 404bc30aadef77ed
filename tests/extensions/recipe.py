"""The recipe of the extensions, by argument: `student` (with a loss term), or `teacher`."""

from configs import synthetic

HERE = 'tests.extensions'


def get_config(arg=None):
  config = synthetic.get_config('single' if arg == 'teacher' else None)  # One branch compiles sooner.
  with config.unlocked():
    if arg == 'student':
      config.model.name, config.model.options = f'{HERE}.pooled_student:PooledStudent', {'vectors': 3}
      config.loss.terms.diverse = {
        'function': f'{HERE}.diverse_loss:diverse',
        'weight': 0.5,
        'schedule': 'linear',
        'branches': ('exploration',),
        'margin': 0.2,
        'sharpness': 4.0,
      }
    else:
      config.teacher.update(online=True, name=f'{HERE}.linear_teacher:load', options={'size': 4, 'features': 6})
  return config.lock()
